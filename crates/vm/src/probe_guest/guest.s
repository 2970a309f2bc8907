# The probe guest: what every stock kernel does in its first moments, each step told by its number to port 0xF4, and 0 where
# one went wrong. Entered as by PVH: 32-bit, flat, without paging; the page tables lie at 0x1000, made by the host.
#
# as --64 guest.s -o guest.o && ld -Ttext=0x8000 --oformat binary guest.o -o guest.bin
	.set	IDT, 0x6000
	.set	SCRATCH, 0x7000
	.set	STACK, 0x6F00

	.code32
	.globl	_start
_start:
	movl	$STACK, %esp
	movb	$1, %al			# 1: it runs
	outb	%al, $0xF4

	movl	%cr4, %eax		# PAE, FXSAVE and SSE
	orl	$0x620, %eax
	movl	%eax, %cr4
	movl	$0x1000, %eax
	movl	%eax, %cr3
	movl	$0xC0000080, %ecx	# EFER: long mode
	rdmsr
	orl	$0x100, %eax
	wrmsr
	movl	%cr0, %eax		# paging; a floating point unit
	andl	$~0x0C, %eax
	orl	$0x80000003, %eax
	movl	%eax, %cr0
	lgdt	gdtr
	ljmp	$8, $long

	.code64
long:
	movw	$16, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movb	$2, %al			# 2: long mode and paging
	outb	%al, $0xF4

	movl	$1, %eax
	cpuid
	andl	$0x2000, %ecx		# CMPXCHG16B
	jz	wrong
	andl	$0x07000001, %edx	# FPU, FXSAVE, SSE, SSE2
	cmpl	$0x07000001, %edx
	jne	wrong
	movb	$3, %al			# 3: CPUID says what stock kernels need
	outb	%al, $0xF4

	xorl	%eax, %eax
	xorl	%edx, %edx
	movl	$1, %ebx
	movl	$2, %ecx
	lock cmpxchg16b	SCRATCH
	jnz	wrong
	cmpq	$2, SCRATCH + 8
	jne	wrong
	movb	$4, %al			# 4: CMPXCHG16B
	outb	%al, $0xF4

	pcmpeqd	%xmm0, %xmm0
	movdqa	%xmm0, SCRATCH
	cmpq	$-1, SCRATCH + 8
	jne	wrong
	fxsave64 SCRATCH + 0x100
	fxrstor64 SCRATCH + 0x100
	movb	$5, %al			# 5: vector registers
	outb	%al, $0xF4

	movl	$tick, %eax		# gate 32: the timer
	movw	%ax, IDT + 512
	movw	$8, IDT + 514
	movw	$0x8E00, IDT + 516
	shrl	$16, %eax
	movw	%ax, IDT + 518
	lidt	idtr
	movb	$0x11, %al		# the first 8259: vectors from 32, line 0 alone
	outb	%al, $0x20
	movb	$32, %al
	outb	%al, $0x21
	movb	$4, %al
	outb	%al, $0x21
	movb	$1, %al
	outb	%al, $0x21
	movb	$0xFE, %al
	outb	%al, $0x21
	movb	$0x34, %al		# the 8254: channel 0, rate generator, some 1000 Hz
	outb	%al, $0x43
	movb	$0xA9, %al
	outb	%al, $0x40
	movb	$0x04, %al
	outb	%al, $0x40
	xorl	%ebp, %ebp
1:	sti
	hlt
	cmpl	$3, %ebp
	jb	1b
	cli
	movb	$6, %al			# 6: the timer's interrupts
	outb	%al, $0xF4
2:	hlt
	jmp	2b

wrong:
	xorl	%eax, %eax
	outb	%al, $0xF4
	jmp	2b

tick:
	incl	%ebp
	movb	$0x20, %al
	outb	%al, $0x20
	iretq

	.balign	8
gdt:
	.quad	0
	.quad	0x00AF9B000000FFFF	# code, 64 bits
	.quad	0x00CF93000000FFFF	# data
gdtr:
	.word	23
	.long	gdt
	.balign	8
idtr:
	.word	33 * 16 - 1
	.quad	IDT
