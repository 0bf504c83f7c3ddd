// Package livetest is a terminal's screen for tests: bytes in, the lines that a person would
// see out.
package livetest

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
)

// A Screen knows what a program may use that leaves nothing to restore: text, line feeds,
// carriage returns, cursor up and the clearing of all behind the cursor. Anything else is an
// error of the test. It scrolls for ever, so its height is only told.
type Screen struct {
	t             testing.TB
	width, height int

	mu       sync.Mutex // guards what follows
	lines    [][]byte
	row, col int
	escape   []byte // begun and not complete
}

// NewScreen returns an empty screen of a terminal in its usual mode, in which a line feed
// returns the carriage.
func NewScreen(t testing.TB, width, height int) *Screen {
	return &Screen{t: t, width: width, height: height, lines: [][]byte{nil}}
}

// Write is what a program writes to its terminal.
func (s *Screen) Write(text []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range text {
		s.put(b)
	}
	return len(text), nil
}

func (s *Screen) put(b byte) {
	switch {
	case s.escape != nil:
		s.escape = append(s.escape, b)
		if len(s.escape) > 2 && b >= '@' { // ECMA-48, section 5.4: the final byte of a control sequence
			s.control(string(s.escape))
			s.escape = nil
		}
	case b == '\x1b':
		s.escape = []byte{b}
	case b == '\n':
		s.down()
		s.col = 0
	case b == '\r':
		s.col = 0
	case b < ' ':
		s.t.Errorf("the control character %q was written", b)
	default:
		if s.col == s.width {
			s.down()
			s.col = 0
		}
		line := s.lines[s.row]
		for len(line) <= s.col {
			line = append(line, ' ')
		}
		line[s.col] = b
		s.lines[s.row] = line
		s.col++
	}
}

func (s *Screen) down() {
	if s.row++; s.row == len(s.lines) {
		s.lines = append(s.lines, nil)
	}
}

func (s *Screen) control(sequence string) {
	up := 0
	switch n, _ := fmt.Sscanf(sequence, "\x1b[%dA", &up); {
	case n == 1 && strings.HasSuffix(sequence, "A"):
		s.row = max(0, s.row-up)
	case sequence == "\x1b[J":
		s.lines[s.row] = s.lines[s.row][:min(s.col, len(s.lines[s.row]))]
		s.lines = s.lines[:s.row+1]
	default:
		s.t.Errorf("the control sequence %q was written: after a crash somebody would have to take it back", sequence)
	}
}

// Text returns the lines from the first on, without blanks at their ends.
func (s *Screen) Text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, line := range s.lines {
		b.Write(bytes.TrimRight(line, " "))
		b.WriteByte('\n')
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// AtLineStart says whether the cursor stands at the start of an empty line.
func (s *Screen) AtLineStart() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.col == 0 && len(s.lines[s.row]) == 0
}

// Console returns the screen as mpb.WithConsoleWriter takes it.
func (s *Screen) Console() *Console { return &Console{screen: s} }

// A Console writes to its screen at Flush, and moves up before the flush after that, as
// mpb's own does.
type Console struct {
	bytes.Buffer
	screen *Screen
}

// IsTerminal says that it is one.
func (c *Console) IsTerminal() bool { return true }

// GetTermSize returns the screen's.
func (c *Console) GetTermSize() (width, height int, err error) {
	return c.screen.width, c.screen.height, nil
}

// Flush draws what was written, of which the last lines are going to be drawn over.
func (c *Console) Flush(lines int) error {
	if _, err := c.WriteTo(c.screen); err != nil {
		return err
	}
	if lines > 0 {
		fmt.Fprintf(c, "\x1b[%dA\x1b[J", lines)
	}
	return nil
}

var _ io.Writer = (*Screen)(nil)
