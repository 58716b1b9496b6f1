"""csrc/avx512 on a CPU that has AVX2 only: `python -m tests.emulation` builds the extension so and runs its tests."""
