<% response.sendRedirect("/demo/"); %>
