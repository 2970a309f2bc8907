//! What a request to the SCSI host is, and what answers it (virtio 1.2, 5.6.6). Pure: headers are copies.

use virtio_bindings::bindings::virtio_scsi::{
    VIRTIO_SCSI_CDB_DEFAULT_SIZE, VIRTIO_SCSI_S_BAD_TARGET, VIRTIO_SCSI_S_FUNCTION_REJECTED,
    VIRTIO_SCSI_S_FUNCTION_SUCCEEDED, VIRTIO_SCSI_S_INCORRECT_LUN, VIRTIO_SCSI_S_OK, VIRTIO_SCSI_S_OVERRUN,
    VIRTIO_SCSI_SENSE_DEFAULT_SIZE, VIRTIO_SCSI_T_AN_QUERY, VIRTIO_SCSI_T_AN_SUBSCRIBE, VIRTIO_SCSI_T_TMF,
    VIRTIO_SCSI_T_TMF_ABORT_TASK, VIRTIO_SCSI_T_TMF_ABORT_TASK_SET, VIRTIO_SCSI_T_TMF_CLEAR_ACA,
    VIRTIO_SCSI_T_TMF_CLEAR_TASK_SET, VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET, VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET,
    VIRTIO_SCSI_T_TMF_QUERY_TASK, VIRTIO_SCSI_T_TMF_QUERY_TASK_SET,
};

use super::sense::{FIXED, Sense};

/// Bytes of a command in a request (5.6.4: `cdb_size`).
pub const CDB: usize = VIRTIO_SCSI_CDB_DEFAULT_SIZE as usize;

/// Bytes of sense data in a response (5.6.4: `sense_size`).
const SENSE: usize = VIRTIO_SCSI_SENSE_DEFAULT_SIZE as usize;

/// `struct virtio_scsi_req_cmd` before its data: lun, id, task_attr, prio, crn, cdb (5.6.6.1).
pub const REQUEST: usize = 8 + 8 + 3 + CDB;

/// Its answer before the data: sense_len, residual, status_qualifier, status, response, sense.
pub const RESPONSE: usize = 4 + 4 + 2 + 1 + 1 + SENSE;

/// The same, as the used ring has it.
pub const RESPONSE_LEN: u32 = 4 + 4 + 2 + 1 + 1 + VIRTIO_SCSI_SENSE_DEFAULT_SIZE;

/// `struct virtio_scsi_ctrl_tmf`: type, subtype, lun, id (5.6.6.2).
pub const TASK_REQUEST: usize = 4 + 4 + 8 + 8;

/// `struct virtio_scsi_ctrl_an`: type, lun, events (5.6.6.2).
pub const EVENTS_REQUEST: usize = 4 + 8 + 4;

/// A SCSI status: SAM-4, 5.3.1.
const GOOD: u8 = 0;
/// The same: sense data says why not.
const CHECK_CONDITION: u8 = 2;

/// Whom a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lun {
    /// The drive.
    Drive,
    /// REPORT LUNS's own: C1h 01h (5.6.6.1).
    ReportLuns,
    /// A unit that the target does not have.
    NoUnit,
    /// The target does not exist.
    NoTarget,
}

impl Lun {
    /// By the 8 bytes of a request: 1, the target, a LUN of a single level in the peripheral or the flat form, zeros.
    pub fn of(bytes: [u8; 8]) -> Lun {
        match bytes {
            [0xC1, 0x01, 0, 0, 0, 0, 0, 0] => Lun::ReportLuns,
            [1, 0, 0 | 0x40, 0, 0, 0, 0, 0] => Lun::Drive,
            [1, 0, ..] => Lun::NoUnit,
            _ => Lun::NoTarget,
        }
    }
}

/// A command's request: whom it is for, and the command. What its driver calls it and wishes of its order does not matter:
/// every read may pass any other.
pub fn command_of(bytes: [u8; REQUEST]) -> (Lun, [u8; CDB]) {
    let mut lun = [0; 8];
    let mut cdb = [0; CDB];
    lun.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    cdb.iter_mut().zip(bytes.into_iter().skip(REQUEST.saturating_sub(CDB))).for_each(|(to, from)| *to = from);
    (Lun::of(lun), cdb)
}

/// How a request ended as far as the host is concerned (5.6.6.1, `response`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Response {
    /// The drive has answered.
    Ok = VIRTIO_SCSI_S_OK.to_le_bytes()[0],
    /// The buffer is smaller than what the command transfers.
    Overrun = VIRTIO_SCSI_S_OVERRUN.to_le_bytes()[0],
    /// Nobody is there.
    BadTarget = VIRTIO_SCSI_S_BAD_TARGET.to_le_bytes()[0],
    /// What is asked for is so.
    FunctionSucceeded = VIRTIO_SCSI_S_FUNCTION_SUCCEEDED.to_le_bytes()[0],
    /// Not known, or not possible now.
    FunctionRejected = VIRTIO_SCSI_S_FUNCTION_REJECTED.to_le_bytes()[0],
    /// The target is there, the unit is not.
    IncorrectLun = VIRTIO_SCSI_S_INCORRECT_LUN.to_le_bytes()[0],
}

impl Response {
    /// As the driver reads it.
    pub fn byte(self) -> u8 {
        self as u8
    }
}

/// The answer to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The host's part.
    pub response: Response,
    /// Why the drive did not do it; where it did, none.
    pub sense: Option<Sense>,
    /// Bytes of the driver's data that were not transferred.
    pub residual: u32,
}

impl Outcome {
    /// As the driver reads it: all of it is written, whatever the driver had there.
    pub fn bytes(self) -> [u8; RESPONSE] {
        let mut bytes = [0; RESPONSE];
        let (head, sense) = bytes.split_at_mut(RESPONSE.saturating_sub(SENSE));
        let length = if self.sense.is_some() { u32::try_from(FIXED).unwrap_or(0) } else { 0 };
        let status = if self.sense.is_some() { CHECK_CONDITION } else { GOOD };
        let [a, b, c, d] = length.to_le_bytes();
        let [e, f, g, h] = self.residual.to_le_bytes();
        head.iter_mut()
            .zip([a, b, c, d, e, f, g, h, 0, 0, status, self.response.byte()])
            .for_each(|(to, from)| *to = from);
        let fixed = self.sense.map(Sense::fixed).unwrap_or_default();
        sense.iter_mut().zip(fixed).for_each(|(to, from)| *to = from);
        bytes
    }
}

/// A request of the control queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskRequest {
    /// Give requests up: the one of this id, or all.
    Abort(Lun, Option<u64>),
    /// The same, and begin anew.
    Reset(Lun),
    /// Whether the one of this id is under way, or any.
    Query(Lun, Option<u64>),
    /// There is no such state.
    ClearAca(Lun),
    /// Asynchronous events: the drive has none.
    Events,
    /// Not known.
    Unknown,
}

impl TaskRequest {
    /// Whether the request has the longer header, of task management.
    pub fn kind(kind: [u8; 4]) -> Option<bool> {
        match u32::from_le_bytes(kind) {
            VIRTIO_SCSI_T_TMF => Some(true),
            VIRTIO_SCSI_T_AN_QUERY | VIRTIO_SCSI_T_AN_SUBSCRIBE => Some(false),
            _ => None,
        }
    }

    /// Reads one of task management.
    pub fn of(bytes: [u8; TASK_REQUEST]) -> TaskRequest {
        let [_, _, _, _, a, b, c, d, rest @ ..] = bytes;
        let [l0, l1, l2, l3, l4, l5, l6, l7, id @ ..] = rest;
        let (lun, id) = (Lun::of([l0, l1, l2, l3, l4, l5, l6, l7]), u64::from_le_bytes(id));
        match u32::from_le_bytes([a, b, c, d]) {
            VIRTIO_SCSI_T_TMF_ABORT_TASK => TaskRequest::Abort(lun, Some(id)),
            VIRTIO_SCSI_T_TMF_ABORT_TASK_SET | VIRTIO_SCSI_T_TMF_CLEAR_TASK_SET => TaskRequest::Abort(lun, None),
            VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET | VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET => TaskRequest::Reset(lun),
            VIRTIO_SCSI_T_TMF_QUERY_TASK => TaskRequest::Query(lun, Some(id)),
            VIRTIO_SCSI_T_TMF_QUERY_TASK_SET => TaskRequest::Query(lun, None),
            VIRTIO_SCSI_T_TMF_CLEAR_ACA => TaskRequest::ClearAca(lun),
            _ => TaskRequest::Unknown,
        }
    }

    /// Whom it is for.
    pub fn lun(self) -> Option<Lun> {
        match self {
            TaskRequest::Abort(lun, _)
            | TaskRequest::Reset(lun)
            | TaskRequest::Query(lun, _)
            | TaskRequest::ClearAca(lun) => Some(lun),
            TaskRequest::Events | TaskRequest::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lun_is_the_drives_in_either_form_and_nobody_elses() {
        let of = |start: [u8; 4]| Lun::of([start[0], start[1], start[2], start[3], 0, 0, 0, 0]);
        assert_eq!((of([1, 0, 0, 0]), of([1, 0, 0x40, 0])), (Lun::Drive, Lun::Drive));
        assert_eq!((of([1, 0, 0, 1]), of([1, 0, 0x80, 0])), (Lun::NoUnit, Lun::NoUnit));
        assert_eq!(Lun::of([1, 0, 0, 0, 0, 0, 0, 1]), Lun::NoUnit);
        for start in [[1, 1, 0x40, 0], [0, 0, 0, 0], [1, 255, 0, 0], [0xC1, 2, 0, 0]] {
            assert_eq!(of(start), Lun::NoTarget, "{start:?}");
        }
        assert_eq!(of([0xC1, 1, 0, 0]), Lun::ReportLuns);
    }

    #[test]
    fn a_request_is_read_by_its_offsets() {
        let mut bytes = [0; REQUEST];
        (bytes[0], bytes[2]) = (1, 0x40);
        (bytes[19], bytes[50]) = (0x28, 0xEE);
        let (lun, cdb) = command_of(bytes);
        assert_eq!((lun, cdb[0], cdb[31]), (Lun::Drive, 0x28, 0xEE));
    }

    #[test]
    fn an_outcome_lies_where_the_specification_has_it() {
        let good = Outcome { response: Response::Ok, sense: None, residual: 0x0102_0304 }.bytes();
        assert_eq!(good[..12], [0, 0, 0, 0, 4, 3, 2, 1, 0, 0, 0, 0]);
        assert_eq!(good[12..], [0; 96]);
        let check = Outcome { response: Response::Ok, sense: Some(Sense::BEYOND_END), residual: 0 }.bytes();
        assert_eq!(check[..12], [18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
        assert_eq!(check[12..30], Sense::BEYOND_END.fixed());
        let nobody = Outcome { response: Response::BadTarget, sense: None, residual: 0 }.bytes();
        assert_eq!((nobody[10], nobody[11]), (0, 3));
    }

    #[test]
    fn task_management_is_read_by_its_subtype() {
        let of = |subtype: u8| {
            let mut bytes = [0; TASK_REQUEST];
            (bytes[4], bytes[8], bytes[16]) = (subtype, 1, 7);
            TaskRequest::of(bytes)
        };
        let (drive, seven) = (Lun::Drive, Some(7));
        assert_eq!(
            [0, 1, 2, 3, 4, 5, 6, 7, 8].map(of),
            [
                TaskRequest::Abort(drive, seven),
                TaskRequest::Abort(drive, None),
                TaskRequest::ClearAca(drive),
                TaskRequest::Abort(drive, None),
                TaskRequest::Reset(drive),
                TaskRequest::Reset(drive),
                TaskRequest::Query(drive, seven),
                TaskRequest::Query(drive, None),
                TaskRequest::Unknown,
            ]
        );
        assert_eq!(TaskRequest::kind([0, 0, 0, 0]), Some(true));
        assert_eq!([1u8, 2].map(|kind| TaskRequest::kind([kind, 0, 0, 0])), [Some(false); 2]);
        assert_eq!(TaskRequest::kind([3, 0, 0, 0]), None);
    }
}
