"""Pictures drawn (draw) and video in and out (video)."""
