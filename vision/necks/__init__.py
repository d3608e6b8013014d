"""Between backbone and head: fpn, pan, jpu (joint pyramid upsampling), deconv."""
