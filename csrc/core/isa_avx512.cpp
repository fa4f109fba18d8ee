#define CODESCALER_ISA 2
#define CODESCALER_TABLE kAvx512
#define CODESCALER_NAME "avx512"
#include "isa.inc"
