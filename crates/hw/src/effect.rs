//! What a register access asks of the world outside: the actions of all models, and who performs them.

/// A device number on PCI bus 0; its function is always 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u8);

/// The time, handed in by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// CLOCK_MONOTONIC in nanoseconds; drives the PM timer and the RTC's periodic interrupt.
    pub monotonic_ns: u64,
    /// CLOCK_REALTIME in nanoseconds since 1970, UTC; drives the RTC's time of day.
    pub realtime_ns: u64,
}

/// What a chip may ask of the world while it works on an access. Nothing changes by it.
pub trait World {
    /// The time; asked only by chips that have any (RTC, PM timer).
    fn now(&self) -> Now;

    /// Whether an interrupt of this queue waits because its delivery is held (its call eventfd is readable): shown in the
    /// pending bit array of MSI-X.
    fn call_pending(&self, slot: Slot, queue: u16) -> bool;

    /// Reads guest memory, for a chip that copies. False if not all of it is RAM; then `into` is not to be looked at.
    fn read_memory(&self, gpa: u64, into: &mut [u8]) -> bool;
}

/// Who performs what the chips decide. Implemented by the `vm` crate, shared by all its threads.
pub trait Edge: World {
    /// Carries one effect out. Called with the deciding chip's lock held: never blocks, never enters the chipset again.
    fn perform(&self, effect: Effect);
}

/// For tests of a chip alone: this time, no interrupt that waits, and no memory.
#[cfg(test)]
impl World for Now {
    fn now(&self) -> Now {
        *self
    }

    fn call_pending(&self, _: Slot, _: u16) -> bool {
        false
    }

    fn read_memory(&self, _: u64, _: &mut [u8]) -> bool {
        false
    }
}

#[cfg(test)]
impl Now {
    /// The beginning of all times.
    pub const START: Self = Self { monotonic_ns: 0, realtime_ns: 0 };
}

/// A timer that the caller keeps for a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Timer {
    /// Alarm, update-ended and periodic interrupt of the RTC.
    Rtc,
    /// Carry of the ACPI PM timer.
    Pm,
    /// Time limits of vmmci, and its look at the host's clock.
    Vmmci,
}

impl core::fmt::Display for Timer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Timer::Rtc => "RTC's timer",
            Timer::Pm => "ACPI PM timer",
            Timer::Vmmci => "vmmci's timer",
        })
    }
}

/// A message-signalled interrupt, as the guest wrote it into its MSI-X table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MsiMessage {
    /// Message address; the upper half is the guest's too (x2APIC ids above 255).
    pub address: u64,
    /// Message data: vector and delivery mode.
    pub data: u32,
}

/// Where the interrupts of one virtqueue go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// MSI-X is off: read the call eventfd and tell `Chipset::queue_interrupt`, which sets the ISR bit and the INTx line.
    Intx,
    /// MSI-X is on and the vector unmasked: the call eventfd is an irqfd whose route is this message.
    Msi(MsiMessage),
    /// MSI-X is on and the vector masked, or there is none: calls stay in the eventfd. When an `Msi` follows, a waiting
    /// call is delivered (KVM does so when an irqfd is assigned to a readable eventfd).
    Held,
}

/// One enabled virtqueue, checked: sizes are powers of two within the maximum, rings aligned and inside RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueSetup {
    /// The queue's index.
    pub index: u16,
    /// Entries.
    pub size: u16,
    /// Guest-physical address of the descriptor table.
    pub desc: u64,
    /// Guest-physical address of the available ring ("driver area").
    pub avail: u64,
    /// Guest-physical address of the used ring ("device area").
    pub used: u64,
}

/// What a back end is started with when the driver sets DRIVER_OK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activation {
    /// The negotiated features: a subset of those offered, VERSION_1 among them.
    pub features: u64,
    /// The enabled queues, in order of index; the others stay unused until the next reset.
    pub queues: Vec<QueueSetup>,
}

/// What a virtio function decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceEffect {
    /// The driver is ready: start the back end, off the vCPU's path. Until it runs, kicks wait in their eventfds.
    Activate(Activation),
    /// The driver resets the device: stop its back end, then call `Chipset::reset_done`. Given after `Activate`, or first of
    /// all for a device that was saved in the middle of a reset; until then the device status reads non-zero.
    Reset,
    /// The driver notified this queue, which is enabled, by an access that no ioeventfd caught: write its kick eventfd.
    Notify(u16),
    /// Where this queue's interrupts go has changed; at first it is `Delivery::Intx`.
    Delivery(u16, Delivery),
    /// Deliver this message now (configuration interrupt): KVM_SIGNAL_MSI.
    Signal(MsiMessage),
    /// The guest-physical addresses of the notify registers have changed: queue n's is `base + 4 * n`, for a 2 or 4 byte
    /// write of any value. `None`: the BAR is not decoded, or lies where it may not.
    NotifyBase(Option<u64>),
}

/// What an access decided, in order; empty for most accesses, and then without an allocation.
pub type Effects = Vec<Effect>;

/// One action for the `vm` crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The guest resets the machine. Given once in the chipset's life, and not after `PowerOff`.
    Reset,
    /// The guest switches the machine off (ACPI S5). Given once in the chipset's life, and not after `Reset`.
    PowerOff,
    /// The guest was asked to stop by vmmci, and has used up its time: it is ended. Given once in the chipset's life, and not after
    /// `Reset` or `PowerOff`, nor they after it.
    Overdue,
    /// An interrupt line changes. Lines below 16 other than the SCI are edge-triggered: a rising one may be given as a
    /// pulse (irqfd); the SCI and INTx lines are levels (KVM_IRQ_LINE).
    Irq {
        /// The line, as an IOAPIC pin.
        gsi: u32,
        /// Its new level.
        level: bool,
    },
    /// A timer has a new deadline, which replaces the last one. Firing early does no harm.
    Deadline {
        /// The timer.
        timer: Timer,
        /// CLOCK_MONOTONIC in nanoseconds; `None` disarms it.
        at: Option<u64>,
    },
    /// The serial port has output where it had none: take it with `Chipset::serial_output` until that gives 0.
    SerialOutput,
    /// The serial port can take input again, after `serial_input` took less than it was given.
    SerialRoom,
    /// The function in this slot decided something.
    Device(Slot, DeviceEffect),
    /// A chip that copies has written guest memory. Done before the access returns, so that the guest finds it. What is not
    /// RAM takes nothing.
    WriteMemory {
        /// Where.
        gpa: u64,
        /// What.
        bytes: Vec<u8>,
    },
}
