use super::*;

#[test]
fn windows_begin_where_the_calendar_says() {
    // Days since 1970 and the day of their month: 1970-01-01, 2000-02-29, 2000-03-01, 2024-02-29,
    // 2025-01-01, 2026-11-23, 2100-02-28, 2100-03-01.
    let rows = [
        (0, 1),
        (11_016, 29),
        (11_017, 1),
        (19_782, 29),
        (20_089, 1),
        (20_780, 23),
        (47_540, 28),
        (47_541, 1),
    ];
    for (day, expected) in rows {
        assert_eq!(day_of_month(day), expected, "{day}");
        assert_eq!(Window::Month.first_day(day), day + 1 - expected);
    }
    // 2026-11-23 is a Monday, 1970-01-01 a Thursday.
    assert_eq!(Window::Week.first_day(20_780), 20_780);
    assert_eq!(Window::Week.first_day(20_786), 20_780);
    assert_eq!(Window::Week.first_day(0), -3);
    let mut day = 0;
    for _ in 0..400 {
        let first = Window::Month.first_day(day + 31);
        assert!((28..=31).contains(&(first - day)), "the month of {day}");
        day = first;
    }
}

#[test]
fn what_is_reserved_counts_against_every_ceiling() {
    let quotas = [
        Quota { window: Window::Day, ceiling: 100 },
        Quota { window: Window::Total, ceiling: 150 },
    ];
    let mut spending = Spending::default();
    spending.spend(1, 60);
    assert_eq!(spending.reserve(&quotas, 90, 5), Ok(()));
    let spent = spending.reserve(&quotas, 1, 5).expect_err("the total is reached");
    assert_eq!(spent, Spent { window: Window::Total, used: 60, reserved: 90, ceiling: 150 });
    spending.settle(90, 20, 5);
    assert_eq!((spending.used(Window::Day, 5), spending.used(Window::Total, 5)), (20, 80));
    assert_eq!(spending.reserve(&quotas, 70, 5), Ok(()));
    spending.settle(70, 70, 5);
    assert!(spending.reserve(&quotas, 0, 5).is_err(), "at the ceiling nothing passes");
    assert!(Spending::default().reserve(&[Quota { ceiling: 0, ..quotas[0] }], 0, 5).is_err());
}

#[test]
fn a_top_up_adds_to_its_window_while_its_day_is_in_it() {
    let (monday, next) = (20_780, 20_787);
    assert_eq!(Window::Week.first_day(monday), monday);
    let week = Quota { window: Window::Week, ceiling: 10 };
    let total = Quota { window: Window::Total, ceiling: 10 };
    let mut spending = Spending::default();
    spending.spend(monday, 10);
    assert!(spending.reserve(&[week], 1, monday).is_err());
    spending.top_up(Window::Week, monday, 5);
    let standing = spending.standing(&week, monday + 6);
    assert_eq!((standing.topped_up, standing.ceiling, standing.used), (5, 15, 10));
    assert_eq!(spending.reserve(&[week], 5, monday + 6), Ok(()));
    assert!(spending.reserve(&[total], 1, monday).is_err(), "another window is another ceiling");
    let standing = spending.standing(&week, next);
    assert_eq!((standing.topped_up, standing.ceiling, standing.used), (0, 10, 0));
    spending.top_up(Window::Total, monday, 20);
    assert_eq!(spending.standing(&total, next).ceiling, 30, "for good");
    spending.top_up(Window::Total, next, -50);
    assert_eq!(spending.standing(&total, next).ceiling, 0, "never below nothing");
}
