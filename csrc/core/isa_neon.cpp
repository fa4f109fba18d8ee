#define CODESCALER_ISA 4
#define CODESCALER_TABLE kNeon
#define CODESCALER_NAME "neon"
#include "isa.inc"
