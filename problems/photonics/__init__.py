"""Photonic inverse design: exact 2D E_z simulation, and designs that a stated brush can always fabricate."""
