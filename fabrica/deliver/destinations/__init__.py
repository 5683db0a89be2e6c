"""Where objects go: a folder, a BIDS data set, a DICOMweb server, a DICOM node."""
