package dashboards

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"

	"barrage/harness/live"
	"barrage/server/comet"
	"barrage/server/discovery"
	"barrage/server/job"
	"barrage/server/logic"
)

// A dashboard is the part of Grafana's JSON that a mistake could be in.
type dashboard struct {
	UID           string
	Title         string
	SchemaVersion int
	ID            *int // must be null, or Grafana would replace what has that number
	Panels        []panel
	Templating    struct{ List []variable }
}

type panel struct {
	ID          int
	Type, Title string
	Description string
	GridPos     struct{ X, Y, W, H int }
	Datasource  *datasource
	Targets     []struct {
		RefID      string
		Expr       string
		Datasource *datasource
	}
}

type datasource struct{ Type, UID string }

type variable struct {
	Name, Type string
	Definition string
	Query      json.RawMessage
}

func read(t *testing.T) map[string]dashboard {
	t.Helper()
	names, err := fs.Glob(Files, "*.json")
	if err != nil || len(names) == 0 {
		t.Fatalf("%v, %v", names, err)
	}
	list := map[string]dashboard{}
	for _, name := range names {
		text, err := Files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var d dashboard
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		list[name] = d
	}
	return list
}

// What Grafana needs to load them beside others, and to show each panel whole.
func TestDashboardsLoad(t *testing.T) {
	uids := map[string]string{}
	for name, d := range read(t) {
		if d.ID != nil || d.UID == "" || d.Title == "" || d.SchemaVersion < 39 {
			t.Errorf("%s: id %v, uid %q, title %q, schemaVersion %d", name, d.ID, d.UID, d.Title, d.SchemaVersion)
		}
		if other := uids[d.UID]; other != "" {
			t.Errorf("%s and %s have the same uid", name, other)
		}
		uids[d.UID] = name
		ids := map[int]bool{}
		for i, p := range d.Panels {
			g := p.GridPos
			if ids[p.ID] || g.X < 0 || g.W < 1 || g.H < 1 || g.X+g.W > 24 {
				t.Errorf("%s: panel %q has the id %d and lies at %+v", name, p.Title, p.ID, g)
			}
			ids[p.ID] = true
			for _, q := range d.Panels[:i] {
				o := q.GridPos
				if g.X < o.X+o.W && o.X < g.X+g.W && g.Y < o.Y+o.H && o.Y < g.Y+g.H {
					t.Errorf("%s: panels %q and %q lie over each other", name, p.Title, q.Title)
				}
			}
			if p.Type != "row" && (len(p.Targets) == 0 || p.Description == "") {
				t.Errorf("%s: panel %q shows nothing, or doesn't say what", name, p.Title)
			}
			for _, target := range p.Targets {
				if target.Datasource == nil || *target.Datasource != (datasource{"prometheus", "${datasource}"}) {
					t.Errorf("%s: panel %q asks another datasource than the chosen one", name, p.Title)
				}
			}
		}
	}
}

// Every expression is PromQL, over metrics and labels that the processes have.
func TestExpressionsAskForWhatThereIs(t *testing.T) {
	known := knownMetrics(t)
	for name, d := range read(t) {
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				if err := check(target.Expr, known); err != nil {
					t.Errorf("%s: panel %q: %s: %v", name, p.Title, target.Expr, err)
				}
			}
		}
		for _, v := range d.Templating.List {
			if v.Type != "query" {
				continue
			}
			m := regexp.MustCompile(`^label_values\((.+), *(\w+)\)$`).FindStringSubmatch(v.Definition)
			if m == nil {
				t.Errorf("%s: variable %s: %q is no label_values(metric, label)", name, v.Name, v.Definition)
				continue
			}
			if err := check(fmt.Sprintf("sum by (%s) (%s)", m[2], m[1]), known); err != nil {
				t.Errorf("%s: variable %s: %v", name, v.Name, err)
			}
		}
	}
}

// The check finds what it is there to find.
func TestCheck(t *testing.T) {
	known := knownMetrics(t)
	for _, c := range []struct{ expr, want string }{
		{`rate(barrage_comet_writes_total{instance=~"$instance"}[$__rate_interval])`, ""},
		{`sum by (le) (rate(barrage_comet_sweep_seconds_bucket[1m]))`, ""},
		{`histogram_quantile(0.5, sum(rate(barrage_harness_latency_seconds[1m])))`, ""},
		{`barrage_comet_writes`, "no such metric: barrage_comet_writes"},
		{`rate(barrage_comet_writes_total_bucket[1m])`, "no such metric"},
		{`barrage_comet_closed_total{cause="peer"}`, "barrage_comet_closed_total has no label cause"},
		{`sum by (rooms) (barrage_comet_rooms)`, "no label rooms"},
		{`sum(`, "parse error"},
		{`1 + 1`, "asks for no metric"},
	} {
		err := check(c.expr, known)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.expr, err, c.want)
		}
	}
}

// everywhere are the labels that Prometheus adds, or that come with what is pushed.
var everywhere = []string{"job", "instance", "run", model.MetricNameLabel}

// check says what is wrong with an expression.
func check(expr string, known map[string][]string) error {
	expr = regexp.MustCompile(`\$__(rate_interval|range|interval)`).ReplaceAllString(expr, "5m")
	root, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		return err
	}
	var problem error
	asked := map[string]bool{} // labels of all metrics in the expression
	var grouped []string
	selectors := 0
	parser.Inspect(root, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.AggregateExpr:
			grouped = append(grouped, n.Grouping...)
		case *parser.VectorSelector:
			selectors++
			has, ok := known[n.Name]
			if !ok {
				problem = fmt.Errorf("no such metric: %s", n.Name)
				return problem
			}
			for _, l := range has {
				asked[l] = true
			}
			for _, m := range n.LabelMatchers {
				if !slices.Contains(has, m.Name) && !slices.Contains(everywhere, m.Name) {
					problem = fmt.Errorf("%s has no label %s", n.Name, m.Name)
				}
			}
		}
		return nil
	})
	for _, l := range grouped {
		if problem == nil && !asked[l] && !slices.Contains(everywhere, l) {
			problem = fmt.Errorf("it groups by %s, and there is no label %s", l, l)
		}
	}
	if problem == nil && selectors == 0 {
		problem = fmt.Errorf("it asks for no metric")
	}
	return problem
}

var described = regexp.MustCompile(`^Desc\{fqName: "(\w+)", .*, constLabels: \{.*\}, variableLabels: \{(.*)\}\}$`)

// knownMetrics returns the names of all series that the processes have, with their labels:
// from the registries of the real code, none of which has to run for that.
func knownMetrics(t *testing.T) map[string][]string {
	t.Helper()
	known := map[string][]string{}
	for _, r := range registries(t) {
		ch := make(chan *prometheus.Desc)
		go func() {
			defer close(ch)
			r.Describe(ch)
		}()
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		kinds := map[string]dto.MetricType{}
		for _, f := range families {
			kinds[f.GetName()] = f.GetType()
		}
		for d := range ch {
			m := described.FindStringSubmatch(d.String())
			if m == nil {
				t.Fatalf("%s is not read", d)
			}
			name, own := m[1], strings.FieldsFunc(m[2], func(r rune) bool { return r == ',' || r == ' ' })
			known[name] = own
			switch kinds[name] {
			case dto.MetricType_HISTOGRAM, dto.MetricType_SUMMARY:
				known[name+"_sum"], known[name+"_count"] = own, own
				known[name+"_bucket"] = append(slices.Clone(own), "le")
			}
		}
	}
	if len(known) < 100 {
		t.Fatalf("%d metrics are known: %v", len(known), slices.Sorted(maps.Keys(known)))
	}
	return known
}

func registries(t *testing.T) []*prometheus.Registry {
	t.Helper()
	var list []*prometheus.Registry
	registry := func() *prometheus.Registry {
		r := prometheus.NewRegistry()
		list = append(list, r)
		return r
	}
	registry().MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	registry().MustRegister(live.NewMetrics(live.Info{}))
	quiet := slog.New(slog.DiscardHandler)
	if _, err := comet.New(comet.DefaultConfig(), comet.Deps{Log: quiet, Metrics: registry()}); err != nil {
		t.Fatal(err)
	}
	if _, err := job.New(job.DefaultConfig(), job.Deps{Log: quiet, Metrics: registry(), Instances: make(chan []discovery.Instance)}); err != nil {
		t.Fatal(err)
	}
	if _, err := logic.New(logic.DefaultConfig(), logic.Deps{Log: quiet, Metrics: registry()}); err != nil {
		t.Fatal(err)
	}
	return list
}
