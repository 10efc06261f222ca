"""Operations through array functions alone, which NumPy's arrays and CuPy's answer where they are."""
