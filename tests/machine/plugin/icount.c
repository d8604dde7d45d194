/* Counts the instructions of a QEMU guest with one CPU into a file that others can read meanwhile.
 *
 *     -plugin icount.so,counters=PATH,entry=0xADDRESS
 *
 * The file holds five 64-bit words: instructions; turns of repeated string instructions, which TCG
 * executes one by one although a CPU counts the whole repetition once; both of these when the block
 * at ADDRESS first ran; and 1 from then on. The words are ours, the interface is QEMU's plugin API
 * version 1. Debian ships no header for it, so what we use is declared here. */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_plugin_tb block_t;
typedef struct qemu_plugin_insn instruction_t;

extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, block_t *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(block_t *, void (*)(unsigned, void *), int, void *);
extern void qemu_plugin_register_vcpu_tb_exec_inline(block_t *, int, void *, uint64_t);
extern size_t qemu_plugin_tb_n_insns(const block_t *);
extern uint64_t qemu_plugin_tb_vaddr(const block_t *);
extern instruction_t *qemu_plugin_tb_get_insn(const block_t *, size_t);
extern const void *qemu_plugin_insn_data(const instruction_t *);
extern size_t qemu_plugin_insn_size(const instruction_t *);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { ADD = 0, NEEDS_NO_REGISTERS = 0 };
enum { ALL, REPEATED, ALL_BEFORE, REPEATED_BEFORE, HAS_BEGUN, WORDS };

static uint64_t *words;
static uint64_t entry;

static void at_entry(unsigned cpu, void *nothing)
{
	(void)cpu;
	(void)nothing;
	if (words[HAS_BEGUN])
		return;
	words[ALL_BEFORE] = words[ALL];
	words[REPEATED_BEFORE] = words[REPEATED];
	words[HAS_BEGUN] = 1;
}

/* Legacy prefixes and REX: Intel SDM volume 2, section 2.1.1 and table 2-4. */
static int is_prefix(uint8_t byte)
{
	static const uint8_t prefixes[] = "\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3";
	return (byte >= 0x40 && byte <= 0x4f) || memchr(prefixes, byte, sizeof prefixes - 1) != NULL;
}

/* INS, OUTS, MOVS, CMPS, STOS, LODS, SCAS behind a repeat prefix. */
static int is_repeated(const instruction_t *instruction)
{
	const uint8_t *bytes = qemu_plugin_insn_data(instruction);
	size_t size = qemu_plugin_insn_size(instruction), at = 0;
	int repeats = 0;

	for (; at < size && is_prefix(bytes[at]); at++)
		repeats |= bytes[at] == 0xf2 || bytes[at] == 0xf3;
	if (!repeats || at == size)
		return 0;
	uint8_t opcode = bytes[at];
	return (opcode >= 0x6c && opcode <= 0x6f) || (opcode >= 0xa4 && opcode <= 0xa7) ||
	       (opcode >= 0xaa && opcode <= 0xaf);
}

static void on_translation(qemu_plugin_id_t id, block_t *block)
{
	size_t count = qemu_plugin_tb_n_insns(block), repeated = 0;

	(void)id;
	if (qemu_plugin_tb_vaddr(block) == entry && !words[HAS_BEGUN])
		qemu_plugin_register_vcpu_tb_exec_cb(block, at_entry, NEEDS_NO_REGISTERS, NULL);
	for (size_t at = 0; at < count; at++)
		repeated += is_repeated(qemu_plugin_tb_get_insn(block, at));
	qemu_plugin_register_vcpu_tb_exec_inline(block, ADD, &words[ALL], count - repeated);
	qemu_plugin_register_vcpu_tb_exec_inline(block, ADD, &words[REPEATED], repeated);
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int count,
							       char **arguments)
{
	const char *path = NULL;

	(void)info;
	for (int at = 0; at < count; at++) {
		if (strncmp(arguments[at], "counters=", 9) == 0)
			path = arguments[at] + 9;
		if (strncmp(arguments[at], "entry=", 6) == 0)
			entry = strtoull(arguments[at] + 6, NULL, 0);
	}
	int file = path ? open(path, O_RDWR) : -1;
	if (file < 0 || ftruncate(file, WORDS * sizeof *words) != 0)
		return -1;
	words = mmap(NULL, WORDS * sizeof *words, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	close(file);
	if (words == MAP_FAILED)
		return -1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
	return 0;
}
