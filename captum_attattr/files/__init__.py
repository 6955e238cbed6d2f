"""Reading and writing of files: each is written completely or not at all, with a declared schema and a checksum."""
