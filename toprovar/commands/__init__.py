"""The commands of `toprovar`: one file each, whose `command` is found by the file's name."""
