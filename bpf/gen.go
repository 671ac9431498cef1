// SPDX-License-Identifier: Apache-2.0

package bpf

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types -type tsem_record -type tsem_cell -type tsem_creds -type tsem_inode -type tsem_path -type tsem_file -type tsem_sock -type tsem_ipc -type tsem_addr -type tsem_namespace -type tsem_task -type tsem_creation -type tsem_slot -type tsem_verdict -type buffer -type tsem_hook -type tsem_kind -type tsem_refusal -type tsem_namespace_flags -type tsem_digest_state -type tsem_cell_type -type tsem_path_flags -type tsem_path_type tsem tsem.bpf.c -- -O2 -mcpu=v3 -g -Wall -Wextra -Werror -Wno-unused-parameter -Wno-missing-declarations
