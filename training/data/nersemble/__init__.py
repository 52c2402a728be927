"""NeRSemble's recordings as a face folder: the rig's cameras taken into EG3D's space, and square crops of the head."""
