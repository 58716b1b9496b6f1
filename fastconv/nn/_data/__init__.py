"""The digits that ship with the package; README.md says what they are and how the file was made."""
