// SPDX-License-Identifier: Apache-2.0

package bpf

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types -type tsem_record -type tsem_namespace -type tsem_slot -type tsem_task_id -type tsem_caller -type tsem_keeper -type tsem_entry -type tsem_verdict -type tsem_trust -type tsem_hook -type tsem_kind -type tsem_refusal -type tsem_namespace_flags tsem tsem.bpf.c -- -O2 -mcpu=v3 -g -Wall -Wextra -Werror -Wno-unused-parameter -Wno-missing-declarations
//go:generate sh -c "sha256sum tsem_bpfel.o | head -c 16 >tsem_bpfel.version"
