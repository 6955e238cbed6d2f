"""Files that are read and written: whole or not at all, with a declared content and a checksum."""
