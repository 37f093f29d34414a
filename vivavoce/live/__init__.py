"""Live sessions: endless frames in time with a clock, speech whenever there is some."""
