// What the CPU computes right.
#pragma once

namespace alexnet_deploy {

/// Whether int8 products are summed in 32 bits, as VNNI and AMX do; other x86 processors use 16. ONEDNN_MAX_CPU_ISA,
/// which limits the instructions that OpenVINO uses, is respected. Other processor families always return true.
bool has_vnni();

}  // namespace alexnet_deploy
