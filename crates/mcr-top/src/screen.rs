//! The terminal: taken over, drawn on, and given back as it was, also after a panic or a signal.

use std::{
    io::{self, IsTerminal},
    panic,
    sync::{
        Arc, Once,
        atomic::{AtomicBool, Ordering},
        mpsc::Receiver,
    },
    time::Duration,
};

use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::Show,
        event::{self, Event, KeyEventKind},
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::{
    TopError,
    feed::{Update, Wanted},
    keys,
    model::Model,
    render,
};

/// How long a key, an update or a signal may wait to be noticed.
const NOTICE_WITHIN: Duration = Duration::from_millis(50);

pub(crate) fn require_terminal() -> Result<(), TopError> {
    if !io::stdin().is_terminal() {
        return Err(TopError::NoTerminal { what: "standard input" });
    }
    if !io::stdout().is_terminal() {
        return Err(TopError::NoTerminal { what: "standard output" });
    }
    Ok(())
}

/// Gives the terminal back when dropped.
struct Taken;

impl Taken {
    fn take() -> io::Result<Self> {
        restore_after_panic();
        enable_raw_mode()?;
        // From here on dropping it undoes what was done.
        let taken = Self;
        execute!(io::stdout(), EnterAlternateScreen)?;
        Ok(taken)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        give_back();
    }
}

fn give_back() {
    // A terminal that is gone needs nothing.
    let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
}

/// A panic may abort, and then nothing is dropped; and what it says must not go to the screen that is left.
fn restore_after_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            give_back();
            before(info);
        }));
    });
}

pub(crate) fn show(mut model: Model, updates: &Receiver<Update>, wanted: &Wanted) -> Result<(), TopError> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGHUP, SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&ended)).map_err(TopError::Terminal)?;
    }
    let _taken = Taken::take().map_err(TopError::Terminal)?;
    let mut terminal = Terminal::new(CrosstermBackend::new(io::stdout())).map_err(TopError::Terminal)?;
    turn(&mut terminal, &mut model, updates, wanted, &ended).map_err(TopError::Terminal)
}

fn turn(
    terminal: &mut Terminal<CrosstermBackend<io::Stdout>>,
    model: &mut Model,
    updates: &Receiver<Update>,
    wanted: &Wanted,
    ended: &AtomicBool,
) -> io::Result<()> {
    let mut stale = true;
    while !ended.load(Ordering::Relaxed) {
        while let Ok(update) = updates.try_recv() {
            model.update(update);
            stale = true;
        }
        if std::mem::take(&mut stale) {
            wanted.store(model.opened.map_or(0, |rule| rule.0), Ordering::Relaxed);
            terminal.draw(|frame| render::render(model, frame))?;
        }
        // A signal interrupts it, and a hang-up ends the input.
        match event::poll(NOTICE_WITHIN) {
            Ok(false) => continue,
            Ok(true) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        stale = true;
        // After anything else, as a change of size, the next drawing is right by itself.
        if let Event::Key(key) = event::read()?
            && key.kind != KeyEventKind::Release
            && !keys::press(model, key)
        {
            return Ok(());
        }
    }
    Ok(())
}
