"""Operations that any array library can compute: of NumPy's functions alone, which CuPy's arrays answer."""
