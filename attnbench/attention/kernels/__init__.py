"""The fused kernels that plans end in: scaled_dot_product_attention and exact forms of our own."""
