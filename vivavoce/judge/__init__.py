"""Videos of talking faces looked at, measured, and compared with recordings. It knows videos and sounds, not how they were made."""
