use super::*;
use crate::{Expr, ParseError, SetError, WindowError};

fn error(source: &str) -> ParseError {
    source.parse::<Expr>().unwrap_err()
}

#[test]
fn and_binds_closer_than_or_and_not_closest() {
    let read = |s: &str| s.parse::<Expr>().unwrap().to_string();
    assert_eq!(read("a and b or not c and d"), "(a and b) or (not c and d)");
    assert_eq!(read("a and (b or c)"), "a and (b or c)");
    assert_eq!(read("not (a or b)"), "not (a or b)");
    assert_eq!(read("Vehicle.Speed<=0.5"), "Vehicle.Speed <= 0.5");
    assert_eq!(read("Vehicle.Chassis.ParkingBrake.IsEngaged"), "Vehicle.Chassis.ParkingBrake.IsEngaged == true");
    assert_eq!(
        read("window( \"22:00-06:00\",\"Europe/Berlin\",\"Sat-Mon\" )"),
        "window(\"22:00-06:00\", \"Europe/Berlin\", \"Mon,Sat,Sun\")"
    );
}

#[test]
fn what_is_not_a_condition_is_refused_where_it_goes_wrong() {
    assert!(matches!(error(""), ParseError::Expected { at: 0, .. }));
    assert!(matches!(error("parked and"), ParseError::Expected { at: 10, .. }));
    assert!(matches!(error("parked battery-ok"), ParseError::Expected { at: 7, .. }));
    assert!(matches!(error("(parked"), ParseError::Expected { at: 7, .. }));
    assert!(matches!(error("parked & battery-ok"), ParseError::Character { at: 7 }));
    assert!(matches!(error("Vehicle..Speed < 1"), ParseError::Signal { at: 0 }));
    assert!(matches!(error("Vehicle.Speed < parked"), ParseError::Expected { at: 16, .. }));
    assert!(matches!(error("Vehicle.Speed < true"), ParseError::BoolOrder { at: 14 }));
    assert!(matches!(error("Vehicle.Speed < 1.2.3"), ParseError::Character { at: 16 }));
    assert!(matches!(
        error("window(\"22:00-06:00\", \"Mars/Base\")"),
        ParseError::Window { cause: WindowError::Zone, .. }
    ));
    assert!(matches!(error("window(\"22:00-22:00\", \"UTC\")"), ParseError::Window { cause: WindowError::Times, .. }));
    assert!(matches!(error("window(\"24:00-06:00\", \"UTC\")"), ParseError::Window { cause: WindowError::Times, .. }));
    assert!(matches!(
        error("window(\"22:00-06:00\", \"UTC\", \"Monday\")"),
        ParseError::Window { cause: WindowError::Days, .. }
    ));
}

#[test]
fn length_depth_and_number_of_terms_are_bounded() {
    assert!(matches!(error(&"a".repeat(1001)), ParseError::TooLong(1001)));
    assert!(matches!(error(&format!("{}a{}", "(".repeat(17), ")".repeat(17))), ParseError::TooDeep { .. }));
    assert!(format!("{}a{}", "(".repeat(16), ")".repeat(16)).parse::<Expr>().is_ok());
    assert!(matches!(error(&format!("{}a", "not ".repeat(17))), ParseError::TooDeep { .. }));
    let any_of = |n: usize| ["a"; 65][..n].join(" or ");
    assert!(matches!(error(&any_of(65)), ParseError::TooManyTerms));
    assert!(any_of(64).parse::<Expr>().is_ok());
}

#[test]
fn named_conditions_must_be_there_end_and_stay_small() {
    let make = |list: &[(&str, &str)]| {
        ConditionSet::new(&list.iter().map(|(n, s)| ((*n).to_owned(), (*s).to_owned())).collect()).unwrap_err()
    };
    assert!(matches!(make(&[("a", "b")]), SetError::Missing { .. }));
    assert!(matches!(make(&[("a", "b"), ("b", "not a")]), SetError::Cycle(_)));
    assert!(matches!(make(&[("a", "a")]), SetError::Cycle(_)));
    assert!(matches!(make(&[("window", "Vehicle.Speed < 1")]), SetError::Name(_)));
    assert!(matches!(make(&[("a.b", "Vehicle.Speed < 1")]), SetError::Name(_)));
    assert!(matches!(make(&[("a", "Vehicle.Speed <")]), SetError::Parse { .. }));
    let ten = |n: &str| [n; 10].join(" or ");
    assert!(matches!(
        make(&[("a", "Vehicle.Speed < 1"), ("b", &ten("a")), ("c", &ten("b")), ("d", &ten("c"))]),
        SetError::TooLarge(_)
    ));
}

#[test]
fn the_signals_of_a_condition_include_those_of_the_conditions_it_names() {
    let set = set(&[("parked", "Vehicle.Speed <= 0.5 and still"), ("still", "Vehicle.Chassis.ParkingBrake.IsEngaged")]);
    let expr: Expr = "parked and Vehicle.Body.Hood.IsOpen == false".parse().unwrap();
    let names: Vec<_> = set.signals(&expr).into_iter().map(|n| n.as_str().to_owned()).collect();
    assert_eq!(names, ["Vehicle.Body.Hood.IsOpen", "Vehicle.Chassis.ParkingBrake.IsEngaged", "Vehicle.Speed"]);
}

#[test]
fn a_window_over_midnight_belongs_to_the_day_it_starts_on_and_follows_summer_time() {
    let signals = signals();
    let holds =
        |condition: &str, now: i64| judge(&ConditionSet::default(), &signals, condition, ms(0), Some(now)).holds;
    let night = "window(\"22:00-06:00\", \"Europe/Berlin\")";
    // 2026-01-15T21:00:00Z is 22:00 in Berlin in winter; 2026-07-15T20:00:00Z is 22:00 there in summer.
    assert!(holds(night, 1_768_510_800));
    assert!(!holds(night, 1_768_510_799));
    assert!(holds(night, 1_784_145_600));
    assert!(!holds(night, 1_784_145_599));
    // 2026-01-16T05:00:00Z is 06:00 in Berlin: the end does not belong to it.
    assert!(holds(night, 1_768_539_599));
    assert!(!holds(night, 1_768_539_600));
    // 2026-01-17 is a Saturday: 01:00Z on it belongs to Friday's window.
    let friday = "window(\"22:00-06:00\", \"UTC\", \"Fri\")";
    assert!(holds(friday, 1_768_611_600));
    assert!(!holds(friday, 1_768_611_600 + 86_400));
}

#[test]
fn without_the_time_a_window_blocks_and_its_contrary_too() {
    let signals = signals();
    for condition in ["window(\"00:00-23:59\", \"UTC\")", "not window(\"00:00-23:59\", \"UTC\")"] {
        let verdict = judge(&ConditionSet::default(), &signals, condition, ms(0), None);
        assert!(!verdict.holds);
        assert!(verdict.reasons[0].text.contains("the time is not known"), "{verdict:?}");
    }
}
