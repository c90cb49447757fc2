"""MuJoCo: robot models, the plant, the driver around it, offline evaluation, rendering."""
