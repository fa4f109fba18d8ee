#define CODESCALER_ISA 3
#define CODESCALER_TABLE kAvx512Bf16
#define CODESCALER_NAME "avx512_bf16"
#include "isa.inc"
