"""The terms that may leave a DICOM file: a code string could be a name, so only known ones pass."""

from __future__ import annotations

# Defined terms of PS3.3 C.8.1.2 and C.8.11.7, and what devices write beside them.
VIEW_POSITIONS = frozenset({
    "AP", "PA", "LL", "RL", "LLD", "RLD", "LLO", "RLO", "LPO", "RPO", "LAO", "RAO", "LAT", "LATERAL", "OBL",
    "OBLIQUE", "AX", "AXIAL", "TAN", "ML", "MLO", "LM", "LMO", "CC", "FB", "SIO", "XCC",
})  # fmt: skip
# Body Part Examined, PS3.16 annex L: what radiographs are taken of.
BODY_PARTS = frozenset({
    "ABDOMEN", "ABDOMENPELVIS", "ANKLE", "ARM", "BREAST", "CALCANEUS", "CHEST", "CHESTABDOMEN", "CHESTABDPELVIS",
    "CLAVICLE", "COCCYX", "CSPINE", "CTSPINE", "ELBOW", "EXTREMITY", "EYE", "FACE", "FEMUR", "FINGER", "FOOT",
    "FOREARM", "HAND", "HEAD", "HEADNECK", "HEEL", "HIP", "HUMERUS", "JAW", "KNEE", "LEG", "LOWERLEG",
    "LOWEREXTREMITY", "LSPINE", "LSSPINE", "LUNG", "MAXILLA", "NECK", "NECKCHEST", "NOSE", "ORBIT", "PATELLA",
    "PELVIS", "RIB", "RIBS", "SACRUM", "SCAPULA", "SHOULDER", "SIJOINT", "SINUS", "SKULL", "SPINE", "SSPINE",
    "STERNUM", "THIGH", "THORAX", "THUMB", "TLSPINE", "TMJ", "TOE", "TSPINE", "UPPERARM", "UPPEREXTREMITY",
    "WHOLEBODY", "WRIST", "ZYGOMA",
})  # fmt: skip
WINDOW_FUNCTIONS = frozenset({"LINEAR", "LINEAR_EXACT", "SIGMOID"})
