"""Radiographs from and to an archive (PACS): DICOMweb both ways, a receiver and a sender of DICOM's own protocol.

Needs the extra `pacs`. It is imported by those who use it, so that all else works without it.
"""
