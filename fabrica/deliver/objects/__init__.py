"""DICOM objects of what was drawn, a file for each kind; all say whose they are and that nobody acquired them."""

DELIVERED = (  # SOP classes of the objects that are written here, which a node is asked for when they are read back
    "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.128",  # CT, MR, PET
    "1.2.840.10008.5.1.4.1.1.30", "1.2.840.10008.5.1.4.1.1.66.4",  # Parametric Map, Segmentation
    "1.2.840.10008.5.1.4.1.1.481.2",  # RT Dose
    "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.88.59",  # Comprehensive 3D SR, Key Object Selection
)  # fmt: skip
