"""Videos of talking faces: looked at, measured, compared with recordings. How they were made is not known here."""
