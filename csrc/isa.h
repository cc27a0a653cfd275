// The best instruction set this machine can run that we have compiled code for.
#pragma once
#include <cstdlib>
#include <string_view>

namespace piip {

enum class Isa { portable, avx2, avx512, avx512bf16 };

// ATEN_CPU_CAPABILITY=default|avx2|avx512 lowers the choice, as it does PyTorch's own; the last means no more than that.
inline Isa best_isa() {
#if defined(__x86_64__)
  const char* variable = std::getenv("ATEN_CPU_CAPABILITY");
  const std::string_view limit = variable ? variable : "";
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && limit != "avx2" && limit != "default")
    return limit != "avx512" && __builtin_cpu_supports("avx512bf16") ? Isa::avx512bf16 : Isa::avx512;
  if (avx2 && limit != "default") return Isa::avx2;
#endif
  return Isa::portable;
}

}  // namespace piip
