"""Identifiers taken out of DICOM files by the table of the standard (PS3.15 Annex E)."""
