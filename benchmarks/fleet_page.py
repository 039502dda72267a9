def render_page(found): return ""
