//! Why a VM could not be made, by what the caller is told: a kind and a sentence.

use proto::{Code, Failure};

/// What failed between the description and the first instruction.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// vmm sent something else than a description, devices and `Begin`, or nothing in time.
    #[error("no complete description from vmm: {0}")]
    Description(String),
    /// The size of memory or the number of vCPUs can't be had.
    #[error("{0}")]
    Size(boot::Error),
    /// The host's processor can't address that much.
    #[error("memory ends at {end:#x}, beyond the {bits} address bits of the host's processor")]
    AddressWidth {
        /// First byte behind RAM.
        end: u64,
        /// Width of physical addresses.
        bits: u8,
    },
    /// The host's KVM runs fewer vCPUs in one VM.
    #[error("{count} vCPUs; the host's KVM runs at most {most} in one VM")]
    HostVcpus {
        /// How many were asked for.
        count: u8,
        /// How many can be had.
        most: usize,
    },
    /// The host gives no memory.
    #[error("could not allocate guest memory: {0}")]
    Memory(std::io::Error),
    /// The descriptor isn't /dev/kvm, or its KVM is too old.
    #[error("/dev/kvm: {0}")]
    NoKvm(&'static str),
    /// KVM refused a step.
    #[error("kvm: {step}: {cause}")]
    Kvm {
        /// What was asked.
        step: &'static str,
        /// The answer.
        cause: kvm_ioctls::Error,
    },
    /// The kernel, the initrd or the command line.
    #[error("{0}")]
    Boot(#[from] boot::reset::Failed),
    /// The devices don't fit the machine, or a saved state doesn't.
    #[error("{0}")]
    Chipset(hw::RestoreError),
    /// A device's process did not take part.
    #[error("device in slot {slot}: {cause}")]
    Device {
        /// Its PCI slot.
        slot: u8,
        /// What went wrong.
        cause: String,
    },
    /// The system refused something else.
    #[error("{step}: {cause}")]
    System {
        /// What was asked.
        step: &'static str,
        /// The answer.
        cause: std::io::Error,
    },
    /// The second half of the promise could not be entered.
    #[error("sandbox: {0}")]
    Sandbox(#[from] sandbox::Error),
}

impl Error {
    /// KVM's answer to a step.
    pub(crate) fn kvm(step: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |cause| Self::Kvm { step, cause }
    }

    /// The system's answer to a step.
    pub(crate) fn system<E: Into<std::io::Error>>(step: &'static str) -> impl FnOnce(E) -> Self {
        move |cause| Self::System { step, cause: cause.into() }
    }

    /// As vmm is told.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let code = match self {
            Self::Description(_) | Self::Device { .. } | Self::Sandbox(_) => Code::Io,
            Self::Size(_) | Self::AddressWidth { .. } | Self::HostVcpus { .. } | Self::Chipset(_) => Code::Invalid,
            Self::Memory(_) => Code::NoMemory,
            Self::NoKvm(_) => Code::NoDevice,
            Self::Kvm { cause, .. } => Code::of_errno(cause.errno()),
            Self::Boot(boot::reset::Failed::Kernel(_)) => Code::NotExecutable,
            Self::Boot(_) => Code::Invalid,
            Self::System { cause, .. } => cause.raw_os_error().map_or(Code::Io, Code::of_errno),
        };
        Failure::new(code, self.to_string())
    }
}
