package profile

import (
	"cmp"
	"slices"
)

// A tree is the stacks of one or two sides, with what they have in common from the
// outermost caller on put together.
type tree struct {
	sides []*Side // A and B, or one alone
	root  *node
}

// A node is a function as it was called on one way from the root: its cost is that of all
// stacks that go through it.
type node struct {
	function string // "" for the root
	process  bool   // function is the role of processes instead
	inlined  bool   // it was never called on this way, but a part of its caller
	children map[string]*node
	sides    [2][]through // by side and run

	cost   [2]float64 // the mean of each side's runs
	events [2]float64 // of all runs
	diff   Difference // with two sides
}

// through is what went through a node in a run.
type through struct{ cost, noise, events float64 }

// grow makes the tree of one side or two. Where there are processes of several roles, they
// are the first branches.
func grow(sides ...*Side) *tree {
	t := &tree{sides: sides, root: &node{}}
	roles := map[string]bool{}
	for _, s := range sides {
		for _, c := range s.Runs {
			for _, st := range c.stacks {
				roles[st.role] = true
			}
		}
	}
	for side, s := range sides {
		for run, c := range s.Runs {
			for _, st := range c.stacks {
				at := t.root
				t.pass(at, side, run, st)
				if len(roles) > 1 {
					at = at.child(st.role, true)
					t.pass(at, side, run, st)
				}
				for _, f := range st.frames {
					at = at.child(f.function, false)
					at.inlined = at.inlined && f.inlined
					t.pass(at, side, run, st)
				}
			}
		}
	}
	t.sum()
	return t
}

// child returns n's child of that name, which it makes where it is missing.
func (n *node) child(name string, process bool) *node {
	c := n.children[name]
	if c == nil {
		c = &node{function: name, process: process, inlined: !process}
		if n.children == nil {
			n.children = map[string]*node{}
		}
		n.children[name] = c
	}
	return c
}

// pass counts a stack that goes through n.
func (t *tree) pass(n *node, side, run int, st stack) {
	if n.sides[side] == nil {
		n.sides[side] = make([]through, len(t.sides[side].Runs))
	}
	in := &n.sides[side][run]
	in.cost += st.cost
	in.noise += st.noise()
	in.events += st.events
}

// sum fills in what the runs say together, and calls what changed.
func (t *tree) sum() {
	u := newTest()
	var all []*Difference
	t.walk(func(n *node, _ int) {
		var measures [2]measure
		for i, s := range t.sides {
			measures[i] = s.measure(func(run int) (float64, float64) {
				if n.sides[i] == nil {
					return 0, 0
				}
				return n.sides[i][run].cost, n.sides[i][run].noise
			})
			n.cost[i] = measures[i].mean()
			for _, in := range n.sides[i] {
				n.events[i] += in.events
			}
		}
		if len(t.sides) == 2 {
			n.diff = u.difference(measures[0], measures[1])
			all = append(all, &n.diff)
		}
	})
	call(all)
}

// walk visits all nodes with their depths, each before its children, the dearest child
// first.
func (t *tree) walk(visit func(n *node, depth int)) { t.root.walk(0, visit) }

func (n *node) walk(depth int, visit func(*node, int)) {
	visit(n, depth)
	for _, c := range n.sorted() {
		c.walk(depth+1, visit)
	}
}

// sorted returns the children, the dearest on either side first.
func (n *node) sorted() []*node {
	list := make([]*node, 0, len(n.children))
	for _, c := range n.children {
		list = append(list, c)
	}
	size := func(n *node) float64 {
		most := 0.0
		for _, runs := range n.sides {
			sum := 0.0
			for _, in := range runs {
				sum += in.cost
			}
			most = max(most, sum/float64(max(1, len(runs))))
		}
		return most
	}
	slices.SortFunc(list, func(x, y *node) int {
		return cmp.Or(cmp.Compare(size(y), size(x)), cmp.Compare(x.function, y.function))
	})
	return list
}
