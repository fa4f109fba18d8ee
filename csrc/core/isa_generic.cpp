#define CODESCALER_ISA 0
#define CODESCALER_TABLE kGeneric
#define CODESCALER_NAME "generic"
#include "isa.inc"
