use super::*;

#[test]
fn a_word_with_anything_special_in_it_is_quoted_for_the_shell() {
    assert_eq!(quoted("eth0.5"), "eth0.5");
    assert_eq!(quoted("a b"), "'a b'");
    assert_eq!(quoted("10.0.0.9>232.1.1.1:5@eth0"), "'10.0.0.9>232.1.1.1:5@eth0'");
    assert_eq!(quoted("it's"), r"'it'\''s'");
    assert_eq!(quoted(""), "''");
}
