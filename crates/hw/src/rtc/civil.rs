//! Seconds since 1970 to date and time of day in the proleptic Gregorian calendar, and back.

/// Seconds of a day.
pub const DAY_S: i64 = 86_400;

/// Date and time, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Civil {
    /// Year.
    pub year: i64,
    /// Month, 1 to 12.
    pub month: i64,
    /// Day of the month, 1 to 31.
    pub day: i64,
    /// Day of the week, 0 is Sunday.
    pub weekday: i64,
    /// Hour, 0 to 23.
    pub hour: i64,
    /// Minute.
    pub minute: i64,
    /// Second.
    pub second: i64,
}

/// Days of a cycle of the calendar, and its years.
const CYCLE_DAYS: i64 = 146_097;
const CYCLE_YEARS: i64 = 400;
/// Days from 1 March of the year 0 to 1 January 1970.
const TO_1970: i64 = 719_468;

/// The date of a time. (The years begin in March here, so that the leap day is a year's last.)
pub fn from_seconds(seconds: i64) -> Civil {
    let since = seconds.div_euclid(DAY_S).saturating_add(TO_1970);
    let of_day = seconds.rem_euclid(DAY_S);
    let cycle = since.div_euclid(CYCLE_DAYS);
    let in_cycle = since.rem_euclid(CYCLE_DAYS);
    let leaps = (in_cycle / 1_460).saturating_add(in_cycle / 146_096).saturating_sub(in_cycle / 36_524);
    let year = in_cycle.saturating_sub(leaps) / 365;
    let in_year = in_cycle.saturating_sub(days_of_years(year));
    let month = in_year.saturating_mul(5).saturating_add(2) / 153;
    let day = in_year.saturating_sub(days_of_months(month)).saturating_add(1);
    let after_new_year = month >= 10;
    Civil {
        year: cycle.saturating_mul(CYCLE_YEARS).saturating_add(year).saturating_add(i64::from(after_new_year)),
        month: if after_new_year { month.saturating_sub(9) } else { month.saturating_add(3) },
        day,
        weekday: since.saturating_add(3).rem_euclid(7), // 1 March of the year 0 was a Wednesday
        hour: of_day / 3600,
        minute: of_day / 60 % 60,
        second: of_day % 60,
    }
}

/// The time of a date. Fields out of range carry over (31 February is in March); the weekday is not looked at.
pub fn to_seconds(civil: Civil) -> i64 {
    let from_march = civil.month.saturating_sub(3).rem_euclid(12);
    let year = civil.year.saturating_sub(i64::from(civil.month <= 2));
    let cycle = year.div_euclid(CYCLE_YEARS);
    let days = cycle
        .saturating_mul(CYCLE_DAYS)
        .saturating_add(days_of_years(year.rem_euclid(CYCLE_YEARS)))
        .saturating_add(days_of_months(from_march))
        .saturating_add(civil.day.saturating_sub(1))
        .saturating_sub(TO_1970);
    days.saturating_mul(DAY_S)
        .saturating_add(civil.hour.saturating_mul(3600))
        .saturating_add(civil.minute.saturating_mul(60))
        .saturating_add(civil.second)
}

/// Days of the first `year` years of a cycle.
fn days_of_years(year: i64) -> i64 {
    year.saturating_mul(365).saturating_add(year / 4).saturating_sub(year / 100)
}

/// Days of the first `month` months from March on.
fn days_of_months(month: i64) -> i64 {
    month.saturating_mul(153).saturating_add(2) / 5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        let civil = |seconds| {
            let c = from_seconds(seconds);
            (c.year, c.month, c.day, c.weekday, c.hour, c.minute, c.second)
        };
        assert_eq!(civil(0), (1970, 1, 1, 4, 0, 0, 0));
        assert_eq!(civil(951_782_399), (2000, 2, 28, 1, 23, 59, 59));
        assert_eq!(civil(951_782_400), (2000, 2, 29, 2, 0, 0, 0));
        assert_eq!(civil(1_709_164_800), (2024, 2, 29, 4, 0, 0, 0));
        assert_eq!(civil(4_107_542_400), (2100, 3, 1, 1, 0, 0, 0));
        assert_eq!(civil(-1), (1969, 12, 31, 3, 23, 59, 59));
    }

    #[test]
    fn every_day_of_eight_centuries_comes_back() {
        for day in -146_097..146_097 {
            let seconds = day * DAY_S + 45_296;
            assert_eq!(to_seconds(from_seconds(seconds)), seconds);
        }
    }
}
