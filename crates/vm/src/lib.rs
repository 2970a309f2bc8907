//! The process of one VM: memory, vCPUs, KVM, the wiring of everything below.
