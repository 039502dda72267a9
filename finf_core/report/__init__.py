"""The report: one self-contained page that a person reads (`html.render_report`)."""
