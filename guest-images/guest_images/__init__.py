"""Recipes of the guest images, made on the build machine without running foreign code."""
