//! What keys do to the model.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::model::{FILTER_CHARS_MAX, Model, Sort, Tab};

/// Lines that the page keys move by.
const PAGE: isize = 10;

/// Takes a key; false if the user wants to leave.
pub(crate) fn press(model: &mut Model, key: KeyEvent) -> bool {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return !matches!(key.code, KeyCode::Char('c'));
    }
    if model.typing {
        type_filter(model, key.code);
        return true;
    }
    match key.code {
        KeyCode::Char('q') => return false,
        KeyCode::Esc if model.opened.is_some() => model.opened = None,
        KeyCode::Esc if !model.filter.is_empty() => model.filter.clear(),
        KeyCode::Esc => return false,
        KeyCode::Tab | KeyCode::Right => turn(model, 1),
        KeyCode::BackTab | KeyCode::Left => turn(model, Tab::ALL.len() - 1),
        KeyCode::Char(digit @ '1'..='5') => show(model, Tab::ALL[digit as usize - '1' as usize]),
        KeyCode::Up | KeyCode::Char('k') => walk(model, -1),
        KeyCode::Down | KeyCode::Char('j') => walk(model, 1),
        KeyCode::PageUp => walk(model, -PAGE),
        KeyCode::PageDown => walk(model, PAGE),
        KeyCode::Home => walk(model, isize::MIN),
        KeyCode::End => walk(model, isize::MAX),
        KeyCode::Enter if model.tab == Tab::Rules && model.opened.is_none() => model.open(),
        KeyCode::Enter => model.opened = None,
        KeyCode::Char('/') if model.tab == Tab::Rules => {
            (model.typing, model.opened) = (true, None);
        }
        KeyCode::Char('r') => model.sort = Sort::Rate,
        KeyCode::Char('d') => model.sort = Sort::Drops,
        KeyCode::Char('n') => model.sort = Sort::Name,
        KeyCode::Char('s') => model.sort = Sort::State,
        KeyCode::Char('i') => model.reversed = !model.reversed,
        _ => {}
    }
    true
}

fn type_filter(model: &mut Model, code: KeyCode) {
    match code {
        KeyCode::Enter => model.typing = false,
        KeyCode::Esc => {
            model.filter.clear();
            model.typing = false;
        }
        KeyCode::Backspace => {
            model.filter.pop();
        }
        KeyCode::Char(c) if model.filter.chars().count() < FILTER_CHARS_MAX => model.filter.push(c),
        _ => {}
    }
}

fn turn(model: &mut Model, by: usize) {
    let place = Tab::ALL.iter().position(|tab| *tab == model.tab).unwrap_or(0);
    show(model, Tab::ALL[(place + by) % Tab::ALL.len()]);
}

fn show(model: &mut Model, tab: Tab) {
    (model.tab, model.scroll, model.opened) = (tab, 0, None);
}

fn walk(model: &mut Model, steps: isize) {
    if model.tab == Tab::Rules && model.opened.is_none() {
        model.move_selection(steps);
    } else {
        // What is beyond the end the drawing does not follow.
        let last = match (&model.look, model.tab) {
            (_, Tab::Events) => model.events.len(),
            (Some(look), Tab::Workers) => look.workers.len(),
            (Some(look), Tab::Interfaces) => look.interfaces.len(),
            (Some(look), Tab::Reflectors) => look.stats.reflectors.len(),
            (Some(_), Tab::Rules) => {
                model.opened.map_or(0, |rule| model.outputs(rule).len() + model.flows(rule).len())
            }
            (None, _) => 0,
        };
        model.scroll = model.scroll.saturating_add_signed(steps).min(last.saturating_sub(1));
    }
}
