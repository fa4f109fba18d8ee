#define CODESCALER_ISA 1
#define CODESCALER_TABLE kAvx2
#define CODESCALER_NAME "avx2"
#include "isa.inc"
