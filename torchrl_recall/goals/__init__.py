"""Goals for Algorithm 2: a Goal GAN, its curriculum and hindsight."""
