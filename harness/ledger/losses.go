package ledger

// A Loss is pushes in a row that a client was owed and did not get.
type Loss struct {
	Client   int // of the book
	Stream   uint16
	From, To uint32 // sequence numbers, To excluded
}

// Losses returns the first losses of clients that are still there, at most n of them: where
// to begin to look. Pushes of unknown fate may be among a loss's.
func (b *Book) Losses(plans []Plan, n int) ([]Loss, error) {
	resolved, err := b.streams.resolve(plans)
	if err != nil {
		return nil, err
	}
	var list []Loss
	for client := range b.clients {
		b.each(client, func(cell uint32, listed int32) {
			next, end := b.cells[cell], resolved[listed].end
			if next >= leaving {
				return
			}
			lost := append(append(gaps(nil), b.missing[cell]...), span{next, end})
			for _, g := range lost {
				g.to = min(g.to, end)
				known := int(g.to) - int(g.from) - len(resolved[listed].unknownIn(g.from, g.to))
				if g.from < g.to && known > 0 && len(list) < n {
					list = append(list, Loss{client, b.streams.list[listed].ID, g.from, g.to})
				}
			}
		})
		if len(list) >= n {
			break
		}
	}
	return list, nil
}
