//! The table that `vmctl status` prints (openbsd/vmctl.md, 6), read back.

/// One line of the table, column by column, as printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The VM's id.
    pub id: u32,
    /// The vm process, if there is one.
    pub pid: Option<u32>,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Configured memory, scaled.
    pub maxmem: String,
    /// Resident memory, scaled, or `-`.
    pub curmem: String,
    /// Console device without its directory, or `-`.
    pub tty: String,
    /// User and group.
    pub owner: String,
    /// State.
    pub state: String,
    /// Name.
    pub name: String,
}

/// The header, exactly.
pub const HEADER: &str = "   ID   PID VCPUS  MAXMEM  CURMEM     TTY        OWNER    STATE NAME";

/// Reads the whole table. Panics where it is not one.
pub fn table(text: &str) -> Vec<Row> {
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some(HEADER), "the status table begins with its header");
    lines.map(|line| row(line).unwrap_or_else(|| panic!("a line of the status table: {line:?}"))).collect()
}

fn row(line: &str) -> Option<Row> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [id, pid, vcpus, maxmem, curmem, tty, owner, state, name] = words.as_slice() else { return None };
    Some(Row {
        id: id.parse().ok()?,
        pid: if *pid == "-" { None } else { Some(pid.parse().ok()?) },
        vcpus: vcpus.parse().ok()?,
        maxmem: (*maxmem).to_owned(),
        curmem: (*curmem).to_owned(),
        tty: (*tty).to_owned(),
        owner: (*owner).to_owned(),
        state: (*state).to_owned(),
        name: (*name).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_specifications_example_is_read() {
        let text = format!(
            "{HEADER}\n    1 12345     1    512M    150M   ttyp1         root  running myvm\n    \
             2     -     1    1.0G       -       -  joe:staff    stopped vm2.example.com\n"
        );
        let rows = table(&text);
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].pid, Some(12345));
        assert_eq!(rows[0].tty, "ttyp1");
        assert_eq!(rows[1].pid, None);
        assert_eq!(rows[1].owner, "joe:staff");
        assert_eq!(rows[1].name, "vm2.example.com");
    }

    #[test]
    #[should_panic(expected = "a line of the status table")]
    fn a_line_with_a_column_missing_is_refused() {
        table(&format!("{HEADER}\n    1 12345     1    512M    150M   ttyp1         root  running\n"));
    }
}
