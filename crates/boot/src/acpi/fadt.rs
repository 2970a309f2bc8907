//! The fixed ACPI description table (ACPI 6.5, 5.2.9): power management registers, reset register, what a PC has not.

use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, bytes};
use crate::{Error, layout};

/// Length of the PM1a event block: status and enable, two bytes each.
const PM1_EVENT_LEN: u8 = 4;
const PM1_CONTROL_LEN: u8 = 2;
const PM_TIMER_LEN: u8 = 4;
/// Beyond 100 microseconds: there is no C2 (5.2.9, P_LVL2_LAT).
const NO_C2: u16 = 0xFFF;
/// Beyond 1000 microseconds: there is no C3.
const NO_C3: u16 = 0xFFF;
/// The century is at this index of the CMOS memory.
const CMOS_CENTURY: u8 = 0x32;
/// IAPC_BOOT_ARCH (5.2.9.3): devices on an ISA bus, that is serial port and clock. Without bit 1 no keyboard controller.
const LEGACY_DEVICES: u16 = 1;
/// IAPC_BOOT_ARCH: a guest need not look for VGA.
const VGA_NOT_PRESENT: u16 = 1 << 2;

/// Bit 4 is clear: a fixed power button. Bit 5 is set: no fixed sleep button. SMI_CMD 0: always in ACPI mode.
const FLAGS: [Flags; 6] =
    [Flags::Wbinvd, Flags::ProcC1, Flags::SlpButton, Flags::FixRtc, Flags::TmrValExt, Flags::ResetRegSup];

pub(super) fn table(facs: u64, dsdt: u64) -> Result<Vec<u8>, Error> {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for flag in FLAGS {
        fadt = fadt.flag(flag);
    }
    // Both widths of each address: a guest of ACPI 1 reads the short one, and the two must agree (5.2.9).
    fadt.firmware_ctrl = u32::try_from(facs).map_err(|_| Error::AcpiArea)?.into();
    fadt.dsdt = u32::try_from(dsdt).map_err(|_| Error::AcpiArea)?.into();
    fadt.x_dsdt = dsdt.into();
    fadt.sci_int = u16::from(layout::SCI).into();
    fadt.pm1a_evt_blk = u32::from(layout::PM1A_EVENT_PORT).into();
    fadt.pm1a_cnt_blk = u32::from(layout::PM1A_CONTROL_PORT).into();
    fadt.pm_tmr_blk = u32::from(layout::PM_TIMER_PORT).into();
    fadt.pm1_evt_len = PM1_EVENT_LEN;
    fadt.pm1_cnt_len = PM1_CONTROL_LEN;
    fadt.pm_tmr_len = PM_TIMER_LEN;
    fadt.x_pm1a_evt_blk = port(layout::PM1A_EVENT_PORT, PM1_EVENT_LEN, AccessSize::WordAccess);
    fadt.x_pm1a_cnt_blk = port(layout::PM1A_CONTROL_PORT, PM1_CONTROL_LEN, AccessSize::WordAccess);
    fadt.x_pm_tmr_blk = port(layout::PM_TIMER_PORT, PM_TIMER_LEN, AccessSize::DwordAccess);
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.century = CMOS_CENTURY;
    fadt.iapc_boot_arch = (LEGACY_DEVICES + VGA_NOT_PRESENT).into();
    fadt.reset_reg = port(layout::RESET_PORT, 1, AccessSize::ByteAccess);
    fadt.reset_value = layout::RESET_VALUE;
    Ok(bytes(&fadt.preferred_pm_profile(PmProfile::EnterpriseServer).finalize()))
}

fn port(port: u16, len: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, len.saturating_mul(8), 0, access, u64::from(port))
}
