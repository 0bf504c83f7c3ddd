package profile

import (
	"encoding/json"
	"fmt"
	"io"
)

// sideJSON is a side without its stacks.
type sideJSON struct {
	Name      string    `json:"name"`
	Runs      []runJSON `json:"runs"`
	Processes []string  `json:"processes"`
}

type runJSON struct {
	Dir     string  `json:"dir"`
	Commit  string  `json:"commit"`
	Status  string  `json:"status"`
	Divisor float64 `json:"divisor"` // deliveries or clients
	Seconds float64 `json:"seconds"`
	Total   float64 `json:"total"`
	Events  float64 `json:"events"`
}

func (s *Side) json() sideJSON {
	out := sideJSON{Name: s.Name, Processes: s.Runs[0].Processes}
	for _, c := range s.Runs {
		out.Runs = append(out.Runs, runJSON{
			Dir: c.Run.Dir, Commit: c.Run.Report.Environment.Commit, Status: c.Run.Report.Verdict.Status,
			Divisor: c.Divisor, Seconds: c.Seconds, Total: c.Total, Events: c.Events,
		})
	}
	return out
}

// WriteJSON writes the first n rows of t as JSON; n of 0 is all.
func (t *Table) WriteJSON(w io.Writer, n int) error {
	return writeJSON(w, struct {
		Kind  Kind     `json:"kind"`
		In    string   `json:"in"` // what costs are measured in
		Side  sideJSON `json:"side"`
		Total Cost     `json:"total"`
		Rows  []TopRow `json:"functions"`
	}{t.Side.Kind(), t.Side.Kind().measuredIn(), t.Side.json(), t.Total, first(t.Rows, n)})
}

// WriteJSON writes d as JSON, with the first n changes; n of 0 is all.
func (d *Diff) WriteJSON(w io.Writer, n int) error {
	return writeJSON(w, struct {
		Kind    Kind       `json:"kind"`
		In      string     `json:"in"` // what costs are measured in
		A       sideJSON   `json:"a"`
		B       sideJSON   `json:"b"`
		Tested  bool       `json:"tested"` // there are the runs to tell noise from change
		Doubts  []string   `json:"doubts"`
		Total   Difference `json:"total"`
		Changes []DiffRow  `json:"changes"`
		Others  int        `json:"others"`
		Rest    Difference `json:"rest"`
	}{d.A.Kind(), d.A.Kind().measuredIn(), d.A.json(), d.B.json(), d.Enough(), nonNil(d.Doubts()), d.Total, first(d.Changes, n), d.Others, d.Rest})
}

func writeJSON(w io.Writer, v any) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	if err := out.Encode(v); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return nil
}

// first returns the first n of list, all for n of 0, and never nil.
func first[T any](list []T, n int) []T {
	if n > 0 && n < len(list) {
		list = list[:n]
	}
	return nonNil(list)
}

func nonNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
