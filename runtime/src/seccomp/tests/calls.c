/* Makes the calls that its arguments name, each "how:number[:first[:second[:third]]]", and prints what the
 * kernel returned, one line each. "how" is n for the native instruction or i for int $0x80. No C library, so
 * that nothing but these calls, write and exit meets the filter. Numbers are read by base 16. */
#ifdef __x86_64__
typedef unsigned long word;
enum { WRITE = 1, EXIT = 60 };
__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");
static long native(word n, word a, word b, word c) {
	long r;
	register word r10 __asm__("r10") = 0;
	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return r;
}
#else
typedef unsigned int word;
enum { WRITE = 4, EXIT = 1 };
__asm__(".globl _start\n_start: mov %esp, %eax\n and $-16, %esp\n sub $12, %esp\n push %eax\n call begin\n");
#endif
static long int80(word n, word a, word b, word c) {
	long r;
	__asm__ volatile("int $0x80" : "=a"(r) : "a"(n), "b"(a), "c"(b), "d"(c) : "memory");
	return (int)r;
}
#ifndef __x86_64__
#define native int80
#endif
void begin(word *stack) {
	long count = *stack;
	char **args = (char **)(stack + 1);
	for (long i = 1; i < count; i++) {
		const char *p = args[i];
		char how = *p++;
		word v[4] = {0, 0, 0, 0};
		for (int k = 0; *p == ':' && k < 4; k++)
			for (p++; *p && *p != ':'; p++)
				v[k] = v[k] * 16 + (*p <= '9' ? *p - '0' : *p - 'a' + 10);
		long r = how == 'i' ? int80(v[0], v[1], v[2], v[3]) : native(v[0], v[1], v[2], v[3]);
		char out[24], *end = out + sizeof out, *o = end;
		*--o = '\n';
		unsigned long u = r < 0 ? -r : r;
		do *--o = '0' + u % 10; while (u /= 10);
		if (r < 0) *--o = '-';
		native(WRITE, 1, (word)o, end - o);
	}
	native(EXIT, 0, 0, 0);
}
