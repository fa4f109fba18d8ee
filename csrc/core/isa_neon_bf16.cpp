#define CODESCALER_ISA 5
#define CODESCALER_TABLE kNeonBf16
#define CODESCALER_NAME "neon_bf16"
#include "isa.inc"
